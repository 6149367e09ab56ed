"""What one command asks for and leaves behind: options, session, plan, outcome, records, seals."""
