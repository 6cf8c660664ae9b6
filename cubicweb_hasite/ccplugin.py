"""Register the commands of the cube: `cubicweb-ctl` loads the module `ccplugin` of each cube."""

from cubicweb.cwctl import CWCTL

from cubicweb_hasite.commands import cubes, database, deploy, instances, restorations, upgrades

for module in (instances, cubes, database, deploy, upgrades, restorations):
    for command in module.COMMANDS:
        CWCTL.register(command)
