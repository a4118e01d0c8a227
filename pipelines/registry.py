"""Finds the members of a family by file name: ``names("encoders")``, ``load("encoders", "wavelet")``.

A member is a module in ``pipelines/<family>/`` (or ``validation/checks/``) that exports what its family's contract asks
for. No global table, no import side effects; heavy libraries load only when their member is named.
"""

import difflib
import importlib
import pkgutil
from types import ModuleType

from schemas.errors import UsageError

_PACKAGES = {
    "sources": "pipelines.sources",
    "encoders": "pipelines.encoders",
    "text_encoders": "pipelines.text_encoders",
    "tokenizers": "pipelines.tokenizers",
    "formats": "pipelines.formats",
    "layouts": "pipelines.layouts",
    "readers": "pipelines.readers",
    "probes": "pipelines.probes",
    "joined": "pipelines.joined",
    "checks": "validation.checks",
}
_EXPORTS = {
    "sources": "SOURCE",
    "encoders": "load",
    "text_encoders": "load",
    "tokenizers": "fit",
    "formats": "FORMAT",
    "layouts": "write",
    "probes": "open_group",
    "joined": "open_group",
}
"""What tells a member from any other module that a dotted name can lead to."""


def names(family: str) -> list[str]:
    """Names of the members of ``family``, sorted."""
    package = importlib.import_module(_PACKAGES[family])
    return sorted(m.name for m in pkgutil.iter_modules(package.__path__) if not m.name.startswith("_"))


def load(family: str, name: str) -> ModuleType:
    """The module of member ``name``; a dotted name is a private member outside the tree.

    Raises UsageError naming the known members.
    """
    if "." in name:
        hint = f"known: {', '.join(names(family))}; or a module of your own, package.module"
        if not all(part.isidentifier() for part in name.split(".")):
            raise UsageError(f"{name!r} is no name for {family}", hint=hint)
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UsageError(f"no module {name!r} for {family}", hint=hint) from error
        if not hasattr(module, _EXPORTS.get(family, "__name__")):
            raise UsageError(f"the module {name!r} is not one of {family}: it has no {_EXPORTS[family]}", hint=hint)
        return module
    known = names(family)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise UsageError(f"there is no {name!r} in {family}", hint=f"{guess}known: {', '.join(known)}")
    return importlib.import_module(f"{_PACKAGES[family]}.{name}")
