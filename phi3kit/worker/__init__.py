"""Worker: a process that has one logged model loaded and answers HTTP."""
