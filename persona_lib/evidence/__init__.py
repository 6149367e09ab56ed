"""What a verdict reads: counts and cells, from our records, other software's files, or totals."""
