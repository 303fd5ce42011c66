"""Stand-ins for the official plugins, used only where those cannot be downloaded.

`language_host` replaces pulumi-language-python, and `command_provider` replaces
pulumi-resource-command. Both speak the official protocols, so programs need no change.
"""

import shlex
from pathlib import Path

COMMAND_VERSION = "1.2.1"

_WRAPPER = """\
#!/bin/sh
python={python} root={root}
usable() {{ [ -x "$python" ] && [ -d "$root/lab/standins" ]; }}
# The checkout that installed this may be gone; then the project in which pulumi runs does.
usable || {{ python=$PWD/.venv/bin/python root=$PWD; }}
if ! usable; then
    echo "$0: the checkout that installed this stand-in is gone ("{root}", "{python}")." >&2
    echo 'Run `make up` in your checkout: it installs the stand-in again.' >&2
    exit 1
fi
exec "$python" -I -c {code} "$root" "$0" "$@"
"""
_CODE = """\
import sys
sys.path.insert(0, sys.argv.pop(1))
from lab.standins.start import start
start({module!r})
"""


def _write_wrapper(path: Path, python: Path, module: str) -> None:
    text = _WRAPPER.format(
        # Not resolved: a virtual environment's python is a link, and works by its own path only.
        python=shlex.quote(str(python.absolute())),
        root=shlex.quote(str(Path(__file__).resolve().parents[2])),
        code=shlex.quote(_CODE.format(module=module)),
    )
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
