"""Pictures, pages and tables: reads results, computes none."""
