"""The content policy over HTTP: defaults, whole replacement, scope, and a tenant of one's own."""

from typing import Final

import pytest

from domain.guarding import ContentPolicy
from tests.api.conftest import MakeFront
from tests.api.support import Front

PATH: Final = "/policies/content"


class TestPolicy:
    async def test_a_tenant_without_one_has_the_defaults(self, front: Front) -> None:
        answer = await front.http.get(PATH)
        assert answer.status_code == 200
        assert answer.json() == {
            "version": 0,
            "updated_at": None,
            "policy": ContentPolicy().model_dump(mode="json"),
        }

    async def test_is_set_whole(self, front: Front) -> None:
        """What is left out goes back to its default; every change has a number."""
        first = await front.http.put(PATH, json={"email": "flag", "card": "block", "sources": "send"})
        assert first.status_code == 200
        assert first.json()["version"] == 1
        second = await front.http.put(PATH, json={"severe": "flag"})
        assert second.json()["version"] == 2
        kept = (await front.http.get(PATH)).json()
        assert kept == second.json()
        assert kept["policy"] == ContentPolicy().model_dump(mode="json") | {"severe": "flag"}
        assert kept["updated_at"] is not None

    async def test_tenants_have_their_own(self, front: Front, other: Front) -> None:
        await front.http.put(PATH, json={"email": "allow"})
        assert (await other.http.get(PATH)).json()["version"] == 0

    @pytest.mark.parametrize(("body", "pointer"), [
        ({"email": "delete"}, "/email"), ({"severe": "mask"}, "/severe"), ({"e-mail": "mask"}, "/e-mail"),
        ({"sources": "block"}, "/sources"), ({"email": None}, "/email"),
    ], ids=str)  # fmt: skip
    async def test_what_is_no_policy_is_refused(self, front: Front, body: dict[str, str], pointer: str) -> None:
        """Naming the member, and changing nothing."""
        answer = await front.http.put(PATH, json=body)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert (await front.http.get(PATH)).json()["version"] == 0

    async def test_needs_a_scope_of_its_own(self, make_front: MakeFront) -> None:
        """Whoever starts jobs does not therefore decide what they may say."""
        front = await make_front(scopes=["jobs:read", "jobs:write"])
        assert (await front.http.get(PATH)).status_code == 403
        assert (await front.http.put(PATH, json={})).status_code == 403
