"""Every setting of every process, typed and checked in one place.

Names are those of the environment (or of ``.env``). Development needs none at all: what is missing is taken from
the embedded stack of ``make up``. Production has no defaults for anything that matters and refuses development's.
"""

import json
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final

from pydantic import AliasChoices, Field, SecretStr, StringConstraints, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from domain.generation import Price
from domain.media import SpeechModel

DEVELOPMENT_PEPPER: Final = "development-pepper-never-use-in-production"
DEVELOPMENT_SECRET_KEY: Final = "ZGV2ZWxvcG1lbnQta2V5LW5ldmVyLWluLXByb2R1Y3Q="  # noqa: S105 - refused in production
_SHORTEST_PEPPER_CHARS: Final = 32

Port = Annotated[int, Field(ge=1, le=65_535)]


class Profile(StrEnum):
    """Which world this process belongs to. The database remembers its own and refuses the other."""

    DEVELOPMENT = "development"
    PRODUCTION = "production"


class ConfigurationError(Exception):
    """The settings do not fit together; the message says which and why. Nothing has been started."""


class Settings(BaseSettings):
    """The settings, read once by ``worker.py``, ``manage.py``, ``api/app.py`` and ``migrations/env.py``."""

    model_config = SettingsConfigDict(
        env_prefix="LONGHAUL_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    profile: Profile = Profile.DEVELOPMENT
    data_dir: Path = Path(".data")

    # where to listen
    api_host: str = "127.0.0.1"
    api_port: Port = 8000
    public_url: Annotated[str, StringConstraints(pattern=r"^https?://[^/]+$")] | None = None
    worker_host: str = "127.0.0.1"
    worker_port: Port = 8001
    temporal_port: Port = 7233
    temporal_ui_port: Port = 8233
    temporal_ui_url: str | None = None

    # what to lean on
    database_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("DATABASE_URL"))
    database_migration_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("DATABASE_MIGRATION_URL")
    )
    database_pool_size: Annotated[int, Field(ge=1, le=200)] = 10
    database_statement_timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 15.0
    temporal_address: str | None = Field(default=None, validation_alias=AliasChoices("TEMPORAL_ADDRESS"))
    temporal_namespace: str = "default"
    temporal_api_key: SecretStr | None = None
    temporal_tls: bool = False
    artifact_store_url: str | None = None

    # who may do what, and how much of it
    api_key_pepper: SecretStr = SecretStr(DEVELOPMENT_PEPPER)
    payload_keys: SecretStr | None = None
    sealing_keys: SecretStr = SecretStr(DEVELOPMENT_SECRET_KEY)
    metrics_token: SecretStr | None = None
    cors_origins: tuple[str, ...] = ()
    max_body_bytes: Annotated[int, Field(ge=1_024)] = 4_194_304
    max_artifact_bytes: Annotated[int, Field(ge=1_024)] = 67_108_864
    rate_limit: str = "6000/minute"
    rate_limit_storage_url: str = "async+memory://"
    max_running_per_kind: Annotated[int, Field(ge=1)] = 100
    idempotency_retention_hours: Annotated[int, Field(ge=24)] = 72

    # how the engine runs
    start_timeout_seconds: Annotated[float, Field(gt=0, le=10)] = 1.0
    reconcile_interval_seconds: Annotated[float, Field(gt=0, le=300)] = 10.0
    worker_max_activities: Annotated[int, Field(ge=1, le=1_000)] = 100
    worker_max_cached_workflows: Annotated[int, Field(ge=2, le=10_000)] = 200
    shutdown_grace_seconds: Annotated[float, Field(ge=1, le=300)] = 20.0
    generation_fan_out: Annotated[int, Field(ge=1, le=200)] = 20
    evaluation_fan_out: Annotated[int, Field(ge=1, le=100)] = 4
    evaluation_budget_usd: Annotated[Decimal, Field(gt=0, le=10_000)] = Decimal(5)
    generation_cost_alert_usd: Annotated[Decimal, Field(gt=0, max_digits=12, decimal_places=6)] | None = Decimal(5)
    response_cache_hours: Annotated[int, Field(ge=0)] = 168
    federated_max_update_bytes: Annotated[int, Field(ge=1_024)] = 536_870_912
    federated_predict_rate_limit: str = "600/minute"

    # records by the million
    saving_max_body_bytes: Annotated[int, Field(ge=1_024)] = 268_435_456
    saving_max_inflated_bytes: Annotated[int, Field(ge=1_024)] = 1_073_741_824
    saving_max_record_bytes: Annotated[int, Field(ge=1_024, le=4_194_304)] = 262_144
    saving_flush_records: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    saving_flush_seconds: Annotated[float, Field(ge=0, le=60)] = 0.5
    saving_shards: Annotated[int, Field(ge=1, le=256)] = 1
    saving_inbox_max_records: Annotated[int, Field(ge=1)] = 5_000_000
    saving_inbox_max_bytes: Annotated[int, Field(ge=1_024)] = 4_294_967_296
    saving_inbox_max_age_seconds: Annotated[int, Field(ge=1)] = 3_600
    saving_message_retention_days: Annotated[int, Field(ge=0)] = 0
    saving_batch_retention_days: Annotated[int, Field(ge=1)] = 30

    # outside systems
    http_proxy: str | None = None
    http_connect_timeout_seconds: Annotated[float, Field(gt=0)] = 5.0
    http_read_timeout_seconds: Annotated[float, Field(gt=0)] = 180.0
    openai_base_url: str = "https://api.openai.com/v1"
    openai_api_key: SecretStr | None = None
    openai_model: str = "gpt-4.1-mini"
    openai_prices: dict[str, Price] = Field(
        default_factory=lambda: {
            "gpt-4.1-mini": Price(
                input_usd=Decimal("0.40"), cached_input_usd=Decimal("0.10"), output_usd=Decimal("1.60")
            ),
            "gpt-4.1": Price(input_usd=Decimal("2.00"), cached_input_usd=Decimal("0.50"), output_usd=Decimal("8.00")),
        }
    )
    openai_most_output_tokens: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    openai_can_look_up: bool = True
    openai_moderation: bool = True
    openai_moderation_model: Annotated[str, StringConstraints(min_length=1)] = "omni-moderation-latest"
    elevenlabs_base_url: str = "https://api.elevenlabs.io"
    elevenlabs_api_key: SecretStr | None = None
    elevenlabs_voice: str = "21m00Tcm4TlvDq8ikWAM"
    elevenlabs_model: str = "eleven_multilingual_v2"
    elevenlabs_models: dict[str, SpeechModel] = Field(
        default_factory=lambda: {
            "eleven_multilingual_v2": SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=10_000),
            "eleven_turbo_v2_5": SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=40_000),
            "eleven_flash_v2_5": SpeechModel(usd_per_1000_characters=Decimal("0.30"), max_characters=40_000),
        }
    )
    elevenlabs_at_once: Annotated[int, Field(ge=1, le=1_000)] = 2
    offline_speech_at_once: Annotated[int, Field(ge=1, le=100)] = 2

    # videos
    heygen_base_url: str = "https://api.heygen.com"
    heygen_api_key: SecretStr | None = None
    heygen_webhook_secret: SecretStr | None = None
    heygen_avatar: str | None = None
    heygen_voice: str | None = None
    heygen_engine: Annotated[str, StringConstraints(pattern="^avatar_(iii|iv|v)$")] = "avatar_iv"
    heygen_prices: dict[str, Annotated[Decimal, Field(ge=0)]] = Field(
        default_factory=lambda: {"avatar_iii": Decimal("1.002"), "avatar_iv": Decimal("4.002")}
    )
    heygen_concurrency: Annotated[int, Field(ge=1, le=1_000)] = 10
    video_poll_seconds: Annotated[float, Field(gt=0, le=3_600)] = 15.0
    video_max_bytes: Annotated[int, Field(ge=1_024)] = 1_073_741_824

    # publishing
    telegram_base_url: str | None = None
    telegram_preview_url: str = "https://t.me"
    telegram_per_chat_second: Annotated[float, Field(gt=0, le=100)] = 1.0
    telegram_per_chat_minute: Annotated[int, Field(ge=1, le=10_000)] = 20
    telegram_per_token_second: Annotated[float, Field(ge=0, le=10_000)] = 30.0
    publishing_probe_pauses_seconds: tuple[Annotated[float, Field(ge=0, le=600)], ...] = (5.0, 25.0, 60.0)
    publishing_wire_seconds: Annotated[float, Field(gt=0, le=60)] = 30.0
    publishing_watch_seconds: Annotated[float, Field(ge=1, le=86_400)] = 600.0
    publishing_max_orders: Annotated[int, Field(ge=1)] = 100_000
    webhook_timeout_seconds: Annotated[float, Field(gt=0, le=60)] = 20.0
    webhook_exempt_hosts: tuple[str, ...] = ()

    # a mock mode for end-to-end tests and demonstrations: `make up` runs a stand-in instead of OpenAI
    standin_openai: bool = False
    standin_openai_port: Port = 8002
    standin_openai_delay_seconds: Annotated[float, Field(ge=0, le=600)] = 0.3
    standin_openai_faults: Path | None = None
    standin_telegram_port: Port | None = None

    # what operators see
    log_format: Annotated[str, StringConstraints(pattern="^(auto|json|console)$")] = "auto"
    log_level: Annotated[str, StringConstraints(pattern="^(DEBUG|INFO|WARNING|ERROR)$")] = "INFO"
    otlp_endpoint: str | None = Field(
        default=None, validation_alias=AliasChoices("LONGHAUL_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    )

    @field_validator("database_url", "database_migration_url")
    @classmethod
    def _psycopg_dialect(cls, url: SecretStr | None) -> SecretStr | None:
        if url is None:
            return None
        scheme, separator, rest = url.get_secret_value().partition("://")
        if not separator or scheme not in {"postgres", "postgresql", "postgresql+psycopg"}:
            raise ValueError("must be a postgresql:// URL")
        return SecretStr(f"postgresql+psycopg://{rest}")

    @model_validator(mode="after")
    def _production_is_explicit(self) -> "Settings":
        if self.profile is Profile.PRODUCTION:
            faults = list(self._production_faults())
            if faults:
                raise ValueError("not fit for production: " + "; ".join(faults))
        return self

    def _production_faults(self) -> list[str]:
        pepper = self.api_key_pepper.get_secret_value()
        checks = {
            "DATABASE_URL is not set": self.database_url is None,
            "TEMPORAL_ADDRESS is not set": self.temporal_address is None,
            "LONGHAUL_ARTIFACT_STORE_URL is not set": self.artifact_store_url is None,
            "LONGHAUL_API_KEY_PEPPER is the development one": pepper == DEVELOPMENT_PEPPER,
            f"LONGHAUL_API_KEY_PEPPER is shorter than {_SHORTEST_PEPPER_CHARS} characters": len(pepper)
            < _SHORTEST_PEPPER_CHARS,
            "LONGHAUL_CORS_ORIGINS contains *": "*" in self.cors_origins,
            "LONGHAUL_PUBLIC_URL is not set": self.public_url is None,
            "LONGHAUL_STANDIN_OPENAI is for development": self.standin_openai,
            "LONGHAUL_SEALING_KEYS is the development one": self.sealing_keys.get_secret_value()
            == DEVELOPMENT_SECRET_KEY,
            "LONGHAUL_WEBHOOK_EXEMPT_HOSTS is for development": bool(self.webhook_exempt_hosts),
        }
        return [fault for fault, present in checks.items() if present]

    @property
    def production(self) -> bool:
        """Whether this is the production profile."""
        return self.profile is Profile.PRODUCTION

    @property
    def base_url(self) -> str:
        """Where clients reach the API; the prefix of every link handed out."""
        return self.public_url or f"http://{self.api_host}:{self.api_port}"

    @property
    def ui_url(self) -> str:
        """Where operators reach the Temporal UI."""
        return self.temporal_ui_url or f"http://127.0.0.1:{self.temporal_ui_port}"

    @property
    def store_url(self) -> str:
        """Where artifacts are kept: an object store's URL, or a folder of the data directory."""
        return self.artifact_store_url or (self.data_dir / "artifacts").resolve().as_uri()

    @property
    def federated_dir(self) -> Path:
        """Where updates wait to be judged, and where weights are kept at hand."""
        return self.data_dir / "federated"

    @property
    def telegram_url(self) -> str:
        """Where the Bot API is: Telegram's own in production, and in development the stand-in unless told otherwise."""
        if self.telegram_base_url is not None:
            return self.telegram_base_url
        return "https://api.telegram.org" if self.production else self.standin_telegram_url

    @property
    def heygen_callback_url(self) -> str | None:
        """Where HeyGen is asked to post about each video, unsigned.

        None where an endpoint is registered with HeyGen, whose posts are signed, or where nothing of theirs reaches us.
        """
        if self.heygen_webhook_secret is not None or not (self.public_url or "").startswith("https://"):
            return None
        return f"{self.public_url}/webhooks/heygen"

    @property
    def standin_telegram_url(self) -> str:
        """Where `make up` runs its stand-in for Telegram: seven ports above the API, unless told otherwise."""
        return f"http://127.0.0.1:{self.standin_telegram_port or self.api_port + 7}"

    @property
    def json_logs(self) -> bool:
        """Whether log lines are JSON: in production, or where asked for."""
        return self.log_format == "json" or (self.log_format == "auto" and self.production)

    def secrets(self) -> list[str]:
        """Every secret value, for the log mask."""
        values = [getattr(self, name) for name in type(self).model_fields]
        return [value.get_secret_value() for value in values if isinstance(value, SecretStr)]

    def require_database_url(self) -> str:
        """The database URL. Raises ConfigurationError where there is none."""
        if self.database_url is None:
            raise ConfigurationError("DATABASE_URL is not set and no embedded stack is up (start one with `make up`)")
        return self.database_url.get_secret_value()

    def require_migration_url(self) -> str:
        """The URL of the role that owns the schema. Raises ConfigurationError where there is none."""
        if self.database_migration_url is not None:
            return self.database_migration_url.get_secret_value()
        return self.require_database_url()

    def require_temporal_address(self) -> str:
        """The address of Temporal's front end; in development that of the embedded server."""
        return self.temporal_address or f"127.0.0.1:{self.temporal_port}"


def stack_file(data_dir: Path) -> Path:
    """Where ``make up`` leaves the addresses of its embedded stack for other commands to find."""
    return data_dir / "stack.json"


def load_settings() -> Settings:
    """Read the settings; in development fill what is missing from a running embedded stack.

    Raises ConfigurationError with one readable line per fault.
    """
    try:
        settings = Settings()
    except ValueError as fault:
        raise ConfigurationError(_readable(fault)) from None
    if settings.production or settings.database_url is not None:
        return settings
    try:
        found = json.loads(stack_file(settings.data_dir).read_text())
    except FileNotFoundError:
        return settings
    return settings.model_copy(
        update={
            "database_url": SecretStr(found["database_url"]),
            "database_migration_url": SecretStr(found["database_migration_url"]),
        }
    )


def _readable(fault: ValueError) -> str:
    errors = getattr(fault, "errors", None)
    if errors is None:
        return str(fault)
    lines = [f"{'.'.join(str(part) for part in error['loc']) or 'settings'}: {error['msg']}" for error in errors()]
    return "the settings are not valid:\n  " + "\n  ".join(lines)
