"""What every table is described with: the one metadata and its naming convention, and the column types."""

from typing import Final

from sqlalchemy import ForeignKeyConstraint, MetaData, Numeric, func
from sqlalchemy.dialects.postgresql import TIMESTAMP

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

Moment = TIMESTAMP(timezone=True)
Money = Numeric(14, 6)
now = func.now()
"""The default of every column that says when a row was made."""


def job_key() -> ForeignKeyConstraint:
    """The foreign key of a row that belongs to a job and goes with it."""
    return ForeignKeyConstraint(["tenant_id", "job_id"], ["jobs.tenant_id", "jobs.id"], ondelete="CASCADE")
