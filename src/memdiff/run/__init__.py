"""The processes of one run: where they are, what they may take, what they leave behind."""
