"""What a person at a terminal sees and types: messages, options, errors, exit codes."""
