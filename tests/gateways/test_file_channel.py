"""Channels that are folders."""

from pathlib import Path

import pytest

from core.ids import new_id
from domain.errors import ProviderError
from domain.publishing.channels import Change, Sight, Target
from domain.publishing.content import PostContent, render
from gateways.file_channel import FileGateway

HELLO = render(PostContent(text="hello"))


async def test_the_same_name_is_another_channel_for_another_tenant(tmp_path: Path) -> None:
    gateway = FileGateway(tmp_path)
    mine, theirs = (Target(tenant_id=new_id(), chat_id="news") for _ in range(2))
    [one] = (await gateway.post("", mine, HELLO)).message_ids
    await gateway.tell("", mine.at("people"), "told")
    assert (await gateway.look_at("", theirs)).last_message_id == 0
    assert (await gateway.look_at("", theirs.at("people"))).last_message_id == 0
    assert (await gateway.find("", theirs, HELLO, after=0, known=frozenset())).sight is Sight.ABSENT
    assert await gateway.remove("", theirs, one) is Change.GONE
    assert await gateway.is_there("", mine, one) is True
    assert (await gateway.find("", mine, HELLO, after=0, known=frozenset())).sight is Sight.FOUND


@pytest.mark.parametrize("name", ["../news", "..", ".", "a/b", "/etc"])
async def test_a_name_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProviderError):
        await FileGateway(tmp_path).look_at("", Target(tenant_id=new_id(), chat_id=name))


async def test_a_number_is_given_once(tmp_path: Path) -> None:
    """Otherwise a post in doubt behind one that was removed would pass for absent, and go out twice."""
    gateway, target = FileGateway(tmp_path), Target(tenant_id=new_id(), chat_id="news")
    [first] = (await gateway.post("", target, HELLO)).message_ids
    assert await gateway.remove("", target, first) is Change.DONE
    assert await gateway.is_there("", target, first) is False
    [second] = (await gateway.post("", target, HELLO)).message_ids
    probe = await gateway.find("", target, HELLO, after=first, known=frozenset({first}))
    assert (probe.sight, probe.message_ids) == (Sight.FOUND, (second,))
