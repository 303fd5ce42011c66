"""Starts a stand-in quickly; the wrappers that `install` writes call it."""

import importlib
import importlib.machinery
import sys
from types import ModuleType


def _light_package(name: str, search: list[str] | None) -> list[str]:
    spec = importlib.machinery.PathFinder.find_spec(name, search)
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit(
            f"{name} is not installed beside {sys.executable}. The stand-in plugins need the "
            "project's own environment: run `make up`, which makes it."
        )
    module = ModuleType(name)
    module.__path__ = list(spec.submodule_search_locations)
    sys.modules[name] = module
    return module.__path__


def start(name: str) -> None:
    """Run the stand-in `name`, a module beside this one, without loading the Pulumi SDK.

    The wrapper passes its own path as the first argument.

    A plugin needs the generated protocol classes only. Their packages import the whole SDK,
    which costs every `pulumi up` 0.2 s a plugin, so empty packages take their place.
    """
    search: list[str] | None = None
    for package in ("pulumi", "pulumi.runtime", "pulumi.runtime.proto"):
        search = _light_package(package, search)
    del sys.argv[0]
    importlib.import_module(f"lab.standins.{name}").main(sys.argv[1:])
