"""Steps of the schema, oldest first. A step that was released never changes: what it made exists out there."""
