"""The Pulumi program: reads the stack's configuration, builds the platform, exports its outputs."""

# ruff: noqa: E402 (what is imported lives as long as the program: looking for garbage in it, while
# it is loaded and at the end, took seven hundredths of the time of a weight edit)
import gc
import signal

# The engine ends a program with SIGINT; Python's own handler would bury the error in a traceback.
signal.signal(signal.SIGINT, signal.SIG_DFL)
gc.disable()

from pathlib import Path

import pulumi

from components.remote import PrivateKey
from config import SSH_KEY, SSH_KEY_PASSWORD, catalogue
from config.load import load, overlooked, read
from stacks.platform import Platform

gc.freeze()
gc.enable()

project = Path(__file__).resolve().parent
config = load(read(), project_dir=project, problems=overlooked(project))
lock = catalogue.read_lock(project / config.artifacts.lock)
secrets = pulumi.Config()
key, password = secrets.get_secret(SSH_KEY), secrets.get_secret(SSH_KEY_PASSWORD)
private_key = PrivateKey(text=key, password=password) if key is not None else None
platform = Platform(config, lock, private_key=private_key)
for name, value in platform.exports().items():
    pulumi.export(name, value)
