"""What is fixed before a run: registrations, claim and gate types, profiles, personas, seals."""
