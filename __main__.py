"""The Pulumi program: load the configuration, create the platform, export its outputs."""

from stacks import process

# isort: split
from pathlib import Path

import pulumi

from config import catalogue
from config.load import load, overlooked, read
from stacks.platform import Platform
from stacks.secrets import alert_secrets, private_key

process.end_of_imports()
project = Path(__file__).resolve().parent
config = load(read(), project_dir=project, problems=overlooked(project))
lock = catalogue.read_lock(project / config.artifacts.lock)
platform = Platform(config, lock, private_key=private_key(), alert_secrets=alert_secrets())
for name, value in platform.exports().items():
    pulumi.export(name, value)
