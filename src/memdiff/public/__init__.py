"""How packages show their names: imported when first used, and called like a function."""
