"""The rehearsal of several machines with Docker Swarm."""
