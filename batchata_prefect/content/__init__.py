"""What is in a document, in a response model and in a citation; pure."""
