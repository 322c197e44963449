"""The benchmark: strategies to replace the API container, compared under load."""
