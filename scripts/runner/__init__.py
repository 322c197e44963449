"""What CI and developers run: build, smoke-test and push the image, ask the server to deploy it, verify it."""
