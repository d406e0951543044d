"""Forward-only schema changes of the registry, run by Alembic when the registry is opened."""
