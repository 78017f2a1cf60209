import json
from pathlib import Path

import pytest

from core.settings import ConfigurationError, Profile, Settings, load_settings, stack_file

FIT = {
    "LONGHAUL_PROFILE": "production",
    "DATABASE_URL": "postgres://app:db-secret@db/longhaul",
    "DATABASE_MIGRATION_URL": "postgresql://owner:owner-secret@db/longhaul",
    "TEMPORAL_ADDRESS": "temporal:7233",
    "LONGHAUL_ARTIFACT_STORE_URL": "s3://bucket",
    "LONGHAUL_API_KEY_PEPPER": "a-pepper-of-forty-characters-0123456789ab",
    "LONGHAUL_PUBLIC_URL": "https://jobs.example.org",
    "LONGHAUL_SEALING_KEYS": "YS1rZXktb2YtMzItYnl0ZXMtZm9yLXRlc3RzLW9ubHk=",
    "LONGHAUL_OPENAI_API_KEY": "openai-secret",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nothing set, and no ``.env`` beside us."""
    monkeypatch.chdir(tmp_path)
    for name in [*Settings.model_fields, *FIT]:
        monkeypatch.delenv(name.upper(), raising=False)
        monkeypatch.delenv(f"LONGHAUL_{name.upper()}", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    return monkeypatch


@pytest.fixture
def production(environment: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Everything that production needs."""
    for name, value in FIT.items():
        environment.setenv(name, value)
    return environment


class TestDevelopment:
    def test_needs_nothing(self, environment: pytest.MonkeyPatch) -> None:
        settings = load_settings()
        assert settings.profile is Profile.DEVELOPMENT
        assert settings.base_url == "http://127.0.0.1:8000"
        assert settings.require_temporal_address() == "127.0.0.1:7233"
        assert settings.store_url.startswith("file:///")
        assert not settings.json_logs

    def test_without_a_stack_says_how_to_get_one(self, environment: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigurationError, match="make up"):
            load_settings().require_database_url()

    def test_finds_the_embedded_stack(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("LONGHAUL_DATA_DIR", str(tmp_path / "data"))
        (tmp_path / "data").mkdir()
        stack_file(tmp_path / "data").write_text(
            json.dumps(
                {"database_url": "postgresql+psycopg://a@/x", "database_migration_url": "postgresql+psycopg://o@/x"}
            )
        )
        settings = load_settings()
        assert settings.require_database_url() == "postgresql+psycopg://a@/x"
        assert settings.require_migration_url() == "postgresql+psycopg://o@/x"

    def test_an_address_of_ones_own_comes_first(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        environment.setenv("LONGHAUL_DATA_DIR", str(tmp_path))
        stack_file(tmp_path).write_text(json.dumps({"database_url": "stack", "database_migration_url": "stack"}))
        environment.setenv("DATABASE_URL", "postgresql://me@db/mine")
        settings = load_settings()
        assert settings.require_database_url() == "postgresql+psycopg://me@db/mine"
        assert settings.require_migration_url() == "postgresql+psycopg://me@db/mine"

    def test_a_dot_env_file_counts(self, environment: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / ".env").write_text("LONGHAUL_API_PORT=9000\n")
        assert load_settings().api_port == 9000


class TestProduction:
    def test_starts_with_everything_set(self, production: pytest.MonkeyPatch) -> None:
        settings = load_settings()
        assert settings.production
        assert settings.json_logs
        assert settings.base_url == "https://jobs.example.org"
        assert settings.store_url == "s3://bucket"

    @pytest.mark.parametrize(
        ("name", "value", "complaint"),
        [
            ("DATABASE_URL", None, "DATABASE_URL is not set"),
            ("TEMPORAL_ADDRESS", None, "TEMPORAL_ADDRESS is not set"),
            ("LONGHAUL_ARTIFACT_STORE_URL", None, "LONGHAUL_ARTIFACT_STORE_URL is not set"),
            ("LONGHAUL_PUBLIC_URL", None, "LONGHAUL_PUBLIC_URL is not set"),
            ("LONGHAUL_API_KEY_PEPPER", None, "LONGHAUL_API_KEY_PEPPER is the development one"),
            ("LONGHAUL_API_KEY_PEPPER", "short", "LONGHAUL_API_KEY_PEPPER is shorter than 32 characters"),
            ("LONGHAUL_CORS_ORIGINS", '["https://a.example", "*"]', r"LONGHAUL_CORS_ORIGINS contains \*"),
            ("LONGHAUL_STANDIN_OPENAI", "true", "LONGHAUL_STANDIN_OPENAI is for development"),
        ],
    )
    def test_refuses_what_is_missing_or_development(
        self, production: pytest.MonkeyPatch, name: str, value: str | None, complaint: str
    ) -> None:
        if value is None:
            production.delenv(name)
        else:
            production.setenv(name, value)
        with pytest.raises(ConfigurationError, match=complaint) as refused:
            load_settings()
        assert ";" not in str(refused.value)

    def test_names_everything_that_is_wrong_at_once(self, environment: pytest.MonkeyPatch) -> None:
        environment.setenv("LONGHAUL_PROFILE", "production")
        with pytest.raises(ConfigurationError) as refused:
            load_settings()
        for name in ("DATABASE_URL", "TEMPORAL_ADDRESS", "ARTIFACT_STORE_URL", "API_KEY_PEPPER", "PUBLIC_URL"):
            assert name in str(refused.value)

    def test_takes_nothing_from_an_embedded_stack(self, production: pytest.MonkeyPatch, tmp_path: Path) -> None:
        production.setenv("LONGHAUL_DATA_DIR", str(tmp_path))
        stack_file(tmp_path).write_text(json.dumps({"database_url": "stack", "database_migration_url": "stack"}))
        production.delenv("DATABASE_URL")
        with pytest.raises(ConfigurationError, match="DATABASE_URL is not set"):
            load_settings()


class TestFaults:
    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("LONGHAUL_API_PORT", "0"),
            ("LONGHAUL_API_PORT", "many"),
            ("LONGHAUL_PROFILE", "staging"),
            ("LONGHAUL_LOG_LEVEL", "LOUD"),
            ("LONGHAUL_PUBLIC_URL", "jobs.example.org"),
            ("LONGHAUL_MAX_RUNNING_PER_KIND", "0"),
        ],
    )
    def test_name_the_setting(self, environment: pytest.MonkeyPatch, name: str, value: str) -> None:
        environment.setenv(name, value)
        with pytest.raises(ConfigurationError, match=name.removeprefix("LONGHAUL_").lower()):
            load_settings()

    @pytest.mark.parametrize("url", ["mysql://root:hunter2@db/x", "db/x", "hunter2"])
    def test_a_wrong_url_is_refused_without_being_shown(self, environment: pytest.MonkeyPatch, url: str) -> None:
        environment.setenv("DATABASE_URL", url)
        with pytest.raises(ConfigurationError, match=r"DATABASE_URL: .*postgresql://") as refused:
            load_settings()
        assert "hunter2" not in str(refused.value)

    def test_a_short_pepper_is_refused_without_being_shown(self, production: pytest.MonkeyPatch) -> None:
        production.setenv("LONGHAUL_API_KEY_PEPPER", "my-short-pepper")
        with pytest.raises(ConfigurationError) as refused:
            load_settings()
        assert "my-short-pepper" not in str(refused.value)
        assert "db-secret" not in str(refused.value)


class TestSecrets:
    def test_are_masked_wherever_settings_are_shown(self, production: pytest.MonkeyPatch) -> None:
        production.setenv("LONGHAUL_PAYLOAD_KEYS", "payload-secret")
        production.setenv("LONGHAUL_HEYGEN_API_KEY", "heygen-secret")
        production.setenv("LONGHAUL_HEYGEN_WEBHOOK_SECRET", "webhook-secret")
        production.setenv("LONGHAUL_METRICS_TOKEN", "metrics-secret")
        production.setenv("LONGHAUL_TEMPORAL_API_KEY", "temporal-secret")
        settings = load_settings()
        for shown in (repr(settings), str(settings), settings.model_dump_json()):
            assert "secret" not in shown.replace("SecretStr", "").replace("heygen_webhook_secret", "")
            assert "pepper-of" not in shown

    def test_are_all_known_to_the_log_mask(self, production: pytest.MonkeyPatch) -> None:
        production.setenv("LONGHAUL_PAYLOAD_KEYS", "payload-secret")
        assert set(load_settings().secrets()) == {
            "postgresql+psycopg://app:db-secret@db/longhaul",
            "postgresql+psycopg://owner:owner-secret@db/longhaul",
            "a-pepper-of-forty-characters-0123456789ab",
            "YS1rZXktb2YtMzItYnl0ZXMtZm9yLXRlc3RzLW9ubHk=",
            "payload-secret",
            "openai-secret",
        }
