import socket

import pytest

from services.stack.ports import PortTaken, free_port, port_is_free, require_free


def test_a_free_port_is_free() -> None:
    assert port_is_free(free_port())


@pytest.mark.e2e
@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 - that a wildcard listener counts too
def test_a_taken_port_names_the_setting_to_change(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        assert not port_is_free(port)
        with pytest.raises(PortTaken, match=f"^port {port} is taken; set LONGHAUL_API_PORT to another$"):
            require_free(port, "LONGHAUL_API_PORT")
    assert port_is_free(port)
