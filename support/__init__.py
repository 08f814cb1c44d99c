"""What a project like this needs and no paper is about. Nothing in this folder is about LeeBERT."""
