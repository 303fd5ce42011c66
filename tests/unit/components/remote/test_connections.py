"""SSH connections to bought machines: every hop is pinned and secrets are encrypted."""

from tests.support.mocked import HOST_KEY, SSH_KEY, config, node, run

OTHER_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGv0457aEuQP9UlUZmC2e8QC9Qktw9CdAUl2NmMRN67m"


def test_a_connection_through_a_bastion_pins_both_host_keys() -> None:
    machines = {
        "ssh": {
            "user": "deploy",
            "bastion": {"address": "192.0.2.5", "hostKey": OTHER_KEY, "user": "jump", "port": 443},
        },
        "nodes": {
            "cp-1": node("control-plane", "192.0.2.11"),
            "worker-1": node("worker", "192.0.2.21"),
        },
    }
    recorder, _ = run(config(machines=machines))
    for name in recorder.names("remote:Command"):
        connection = recorder.inputs("remote:Command", name)["connection"]
        assert (connection["user"], connection["hostKey"]) == ("deploy", HOST_KEY)
        bastion = connection["proxy"]
        assert (bastion["host"], bastion["port"], bastion["user"]) == ("192.0.2.5", 443, "jump")
        assert bastion["hostKey"] == OTHER_KEY
        assert "connection" in recorder.secrets("remote:Command", name)


def test_a_connection_without_a_bastion_has_no_proxy() -> None:
    recorder, _ = run(config())
    for name in recorder.names("remote:Command"):
        connection = recorder.inputs("remote:Command", name)["connection"]
        assert "proxy" not in connection
        assert "privateKeyPassword" not in connection
        assert connection["privateKey"] == SSH_KEY
