"""What results depend on, as plain dictionaries: versions of libraries, and hashes of settings.

Depends on the standard library only. Callers add what only they know, such as ontology releases.
"""

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def library_versions(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the installed version of each package, None where it is not installed.

    Parameters
    ----------
    packages
        Names of distributions, such as `"scikit-learn"`.

    Examples
    --------
    >>> library_versions(["no-such-package"])
    {'no-such-package': None}
    """
    return {package: _version(package) for package in packages}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def content_hash(content: Any) -> str:
    """Return the SHA-256 of a JSON value, as 64 hexadecimal digits. The order of keys does not matter.

    Examples
    --------
    >>> content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
