"""Hand over a logged model: commands and files for servers, a local scoring server, and a bundle for Azure ML."""
