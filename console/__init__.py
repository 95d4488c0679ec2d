"""The console: messages, options, errors, exit codes."""
