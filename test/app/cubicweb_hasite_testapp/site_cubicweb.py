"""Options of the test application."""

options = (
    (
        "testapp-files-directory",
        {
            "type": "string",
            "default": "",
            "help": "the directory where the data of files is kept, by default in the database",
            "group": "testapp",
            "level": 3,
        },
    ),
)
