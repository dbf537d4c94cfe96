"""How do people and programs reach it? The command line and the browser app."""
