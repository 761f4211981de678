"""The worker: a process that has one logged model loaded and answers HTTP."""
