"""What the operator sets, once for all studies: prices, trust, retries. Read from ALPAGE_*."""

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(value: Any) -> Any:
    """Hosts and buckets as a variable has them: one after another, by commas, in any case."""
    if isinstance(value, str):
        return tuple(name.strip().lower() for name in value.split(",") if name.strip())
    return value


Names = Annotated[tuple[str, ...] | None, NoDecode, BeforeValidator(_split)]


class Settings(BaseSettings):
    """Settings of this installation, from environment variables that begin with ALPAGE_."""

    model_config = SettingsConfigDict(env_prefix="ALPAGE_", frozen=True, extra="ignore")

    cpu_hour_eur: float = Field(0.04, ge=0, description="Price of one core for one hour.")
    thousand_gets_eur: float = Field(0.0004, ge=0, description="Price of 1000 read requests.")
    thousand_puts_eur: float = Field(0.005, ge=0, description="Price of 1000 write requests.")
    egress_gib_eur: float = Field(0.0, ge=0, description="Price of a GiB read from the archive.")
    storage_gib_month_eur: float = Field(0.02, ge=0, description="Price of a GiB kept a month.")
    block_retries: int = Field(3, ge=0, description="Times a failed block is tried again.")
    commit_blocks: int = Field(4096, ge=1, description="Most blocks in one commit.")
    commit_seconds: float = Field(30.0, gt=0, description="Longest time between commits.")
    allowed_hosts: Names = Field(
        None, description="Hosts imagery may come from; unset: any public one."
    )
    plain_http_hosts: Names = Field(
        None, description="Hosts that may be read without TLS; unset: this machine only."
    )
    allowed_buckets: Names = Field(None, description="Buckets imagery may come from; unset: any.")
    cluster_template: Path | None = Field(
        None, description="DaskCluster resource that clusters on Kubernetes are made from."
    )
    cluster_image: str | None = Field(
        None, description="Image of clusters on Kubernetes; unset: their template's."
    )
    cluster_start_seconds: float = Field(
        300.0, gt=0, description="Longest wait for the first worker of a cluster."
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Port of a run's metrics for Prometheus; unset: none."
    )
    log_format: Literal["plain", "json"] = Field(
        "plain", description="How logs are written; plain: as whoever starts the program has it."
    )


@cache
def settings() -> Settings:
    """Return the settings of this process."""
    return Settings()
