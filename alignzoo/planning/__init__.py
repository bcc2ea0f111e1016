"""What a run will take, before it: operations, bytes and seconds, without its model."""
