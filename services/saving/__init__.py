"""Use cases of saving: taking records in, keeping streams going, forgetting what is old, describing the kind of job."""
