"""What a failed step on a node tells the user."""

import pytest

from components.failures import explain, on_hypervisor


@pytest.mark.parametrize(
    ("error", "words"),
    [
        # Go's SSH library, as the official command plugin passes it on
        ("after 5 failed attempts: dial tcp 192.0.2.11:22: connect: connection refused", "answer"),
        ("dial tcp 192.0.2.11:22: i/o timeout", "its firewall lets SSH in"),
        ("dial tcp 192.0.2.11:22: connect: no route to host", "the address and the port"),
        ("ssh: handshake failed: knownhosts: key mismatch", "another SSH host key"),
        ("ssh: handshake failed: ssh: host key mismatch", "machines.nodes.worker-1.hostKey"),
        ("ssh: unable to authenticate, attempted methods [none publickey]", "authorized_keys"),
        (
            "wait: remote command exited without exit status or exit signal",
            "was cut while a script",
        ),
        # The stand-in
        (
            "the connection to root@192.0.2.11:22 was lost while a command ran there",
            "was cut while",
        ),
    ],
)
def test_the_node_and_the_remedy_are_named(error: str, words: str) -> None:
    message = explain("worker-1", error)
    assert message is not None
    assert message.startswith("node worker-1: ")
    assert words in message
    assert "`pulumi up` again" in message


def test_the_hypervisor_is_named_where_a_guest_could_not_be_made() -> None:
    message = explain("worker-1", "ssh: host key mismatch")
    assert message is not None
    inputs = {"create": "export DOMAIN=x\nexport HYPERVISOR=hv-1\nexport NODE_NAME=worker-1\n"}
    assert "machines.hypervisors.hv-1.hostKey" in on_hypervisor(message, "worker-1", inputs)
    assert on_hypervisor(message, "worker-1", {"create": ""}) == message


def test_the_bastion_is_named_where_there_is_one() -> None:
    error = "proxy: ssh: handshake failed: ssh: host key mismatch"
    message = explain("worker-1", error, bastion="192.0.2.5")
    assert message is not None
    assert "through the bastion 192.0.2.5" in message
    assert "machines.ssh.bastion" in message


def test_a_script_has_explained_itself() -> None:
    assert explain("cp-1", "ERROR on node cp-1: connection refused") is None


def test_what_is_not_understood_is_not_explained() -> None:
    assert explain("cp-1", "exit status 3") is None
