"""The language host with a real engine: programs, their errors, and policy packs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.engine.conftest import Project

    Projects = Callable[..., Project]

# A policy pack that needs only the pulumi package; it forbids every local.Command.
PACK = """
import sys
from concurrent import futures

import grpc
from pulumi.runtime.proto import analyzer_pb2, analyzer_pb2_grpc, plugin_pb2


class Pack(analyzer_pb2_grpc.AnalyzerServicer):
    def Handshake(self, request, context):
        return analyzer_pb2.AnalyzerHandshakeResponse()

    def GetPluginInfo(self, request, context):
        return plugin_pb2.PluginInfo(version="0.0.1")

    def GetAnalyzerInfo(self, request, context):
        return analyzer_pb2.AnalyzerInfo(name="pack", displayName="pack", version="0.0.1")

    def Configure(self, request, context):
        from google.protobuf import empty_pb2
        return empty_pb2.Empty()

    def ConfigureStack(self, request, context):
        return analyzer_pb2.AnalyzerStackConfigureResponse()

    def AnalyzeStack(self, request, context):
        return analyzer_pb2.AnalyzeResponse()

    def Analyze(self, request, context):
        found = []
        if request.type == "command:local:Command":
            found.append(analyzer_pb2.AnalyzeDiagnostic(
                policyName="no-local-commands", policyPackName="pack", policyPackVersion="0.0.1",
                message="local commands are forbidden here", urn=request.urn,
                enforcementLevel=analyzer_pb2.MANDATORY))
        return analyzer_pb2.AnalyzeResponse(diagnostics=found)


server = grpc.server(futures.ThreadPoolExecutor())
analyzer_pb2_grpc.add_AnalyzerServicer_to_server(Pack(), server)
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(port, flush=True)
server.wait_for_termination()
"""


def test_a_program_receives_its_config_and_can_log(project: Projects) -> None:
    program = """
config = pulumi.Config()
print("a printed line")
pulumi.export("colour", config.require("colour"))
pulumi.export("word", config.require_secret("word"))
pulumi.export("stack", f"{pulumi.get_project()}/{pulumi.get_stack()}")
"""
    stack = project(program)
    stack.pulumi("config", "set", "colour", "red").ok()
    stack.pulumi("config", "set", "--secret", "word", "hush").ok()
    result = stack.up().ok().output
    assert "a printed line" in result
    assert "stand-in" not in result
    assert "hush" not in result
    assert stack.outputs() == {"colour": "red", "word": "hush", "stack": "engine/dev"}


def test_an_error_in_a_program_is_reported_with_its_traceback(project: Projects) -> None:
    program = """
def look_up():
    return {}["no such key"]
look_up()
"""
    result = project(program).preview().failed().output
    assert "KeyError: 'no such key'" in result
    assert "__main__.py" in result
    assert "language_host.py" not in result
    assert "non-zero exit code" not in result, "the error was shown already"


def test_the_exit_of_a_program_is_reported(project: Projects) -> None:
    result = project("import os\nos._exit(7)\n").preview().failed().output
    assert "program exited with non-zero exit code: 7" in result


def test_a_missing_virtualenv_is_named(project: Projects) -> None:
    stack = project("", options={"virtualenv": "no-such-venv"})
    result = stack.preview().failed().output
    assert str(stack.directory / "no-such-venv") in result
    assert "does not exist" in result
    assert "Traceback" not in result


def test_a_mandatory_policy_fails_a_preview(project: Projects, tmp_path: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    (pack / "__main__.py").write_text(PACK)
    runtime = {"name": "python", "options": {"virtualenv": sys.prefix}}
    (pack / "PulumiPolicy.yaml").write_text(json.dumps({"runtime": runtime}))
    stack = project('local.Command("it", create="true")\n')
    result = stack.preview("--policy-pack", str(pack)).failed().output
    assert "local commands are forbidden here" in result
    stack.write("")
    stack.preview("--policy-pack", str(pack)).ok()
