"""Stand-ins for the official plugins, used only where those cannot be downloaded.

`language_host` replaces pulumi-language-python, and `command_provider` replaces
pulumi-resource-command. Both speak the official protocols, so programs need no change.
"""

import shlex
from pathlib import Path

COMMAND_VERSION = "1.2.1"

_WRAPPER = """\
#!/bin/sh
exec {python} -I -c {code} "$0" "$@"
"""
_CODE = """\
import sys
sys.path.insert(0, {root!r})
from lab.standins.start import start
start({module!r})
"""


def _write_wrapper(path: Path, python: Path, module: str) -> None:
    root = Path(__file__).resolve().parents[2]
    # Not resolved: a virtual environment's python is a link, and works by its own path only.
    python = python.absolute()
    code = _CODE.format(root=str(root), module=module)
    text = _WRAPPER.format(python=shlex.quote(str(python)), code=shlex.quote(code))
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        # A new file in its place, since the engine may be running the old one.
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(text)
        fresh.chmod(0o755)
        fresh.replace(path)


def install_language_host(bin_dir: Path, python: Path) -> None:
    """Write the wrapper of the language host.

    `bin_dir` must be the directory of the `pulumi` binary and must also hold
    `pulumi-language-python-exec`: the engine takes a language host from beside itself.
    """
    _write_wrapper(bin_dir / "pulumi-language-python", python, "language_host")


def install_command_provider(pulumi_home: Path, python: Path) -> None:
    """Write the wrapper of the command provider into the plugin cache of a PULUMI_HOME.

    Not on PATH: the engine would warn about it in every run.
    """
    plugin = pulumi_home / "plugins" / f"resource-command-v{COMMAND_VERSION}"
    _write_wrapper(plugin / "pulumi-resource-command", python, "command_provider")


def install(bin_dir: Path, python: Path, pulumi_home: Path) -> None:
    """Write the wrappers that let the engine find both stand-ins, without a warning.

    `python` is the interpreter of an environment with grpcio, pulumi and asyncssh. Safe to
    repeat; the wrappers may be moved or linked elsewhere.
    """
    install_language_host(bin_dir, python)
    install_command_provider(pulumi_home, python)
