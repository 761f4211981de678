"""Sources: where weights come from: the embedded model, a folder, a repository on Hugging Face."""
