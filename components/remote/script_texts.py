"""The texts of the scripts in the state, once for each stack."""

import pulumi

from components.remote import node_command

TYPE = "nordmesh:node:Scripts"
"""The type of the resource whose inputs are the texts, by file name."""


class ScriptTexts(pulumi.ComponentResource):
    """The texts of the scripts, so that a preview shows which lines of a script change.

    Commands name a script by its hash only. Deliberately runs nothing and copies nothing.
    """

    def __init__(self, name: str, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__(TYPE, name, dict(node_command.texts()), opts)
        self.register_outputs({})
