"""Converting: exam sheets, tables, quizzes and data sets become passages, and answers become keys and sheets."""
