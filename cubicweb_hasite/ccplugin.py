"""Register the commands of the cube: `cubicweb-ctl` loads the module `ccplugin` of each cube."""

from cubicweb.cwctl import CWCTL

from cubicweb_hasite.commands import database, deploy, instances, upgrades

for command in [*instances.COMMANDS, *database.COMMANDS, *deploy.COMMANDS, *upgrades.COMMANDS]:
    CWCTL.register(command)
