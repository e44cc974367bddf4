"""Files that are whole at any moment, and arrays in them without pickle. Knows nothing of what they hold."""
