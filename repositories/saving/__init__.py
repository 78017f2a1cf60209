"""SQL of saving: taking records in, bringing them home, telling about them. Touch it for a new way to ask or count."""
