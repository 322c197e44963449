"""What a CI runner or a developer's machine runs: build, boot and push the image, request the deploy, verify it."""
