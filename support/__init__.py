"""What a project like this needs and no paper is about. The method can be understood without it."""
