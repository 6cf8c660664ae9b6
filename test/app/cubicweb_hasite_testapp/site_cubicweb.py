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
    (
        "testapp-bucket",
        {
            "type": "string",
            "default": "",
            "help": "the bucket where the data of files is kept; the instance has s3storage then",
            "group": "testapp",
            "level": 3,
        },
    ),
    (
        "testapp-own-controllers",
        {
            "type": "yn",
            "default": False,
            "help": "whether the application has controllers and views in place of CubicWeb's",
            "group": "testapp",
            "level": 3,
        },
    ),
)
