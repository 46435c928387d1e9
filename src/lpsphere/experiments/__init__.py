"""One module for each table or figure that the project reproduces: configuration -> runs -> tidy results."""
