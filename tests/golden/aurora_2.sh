#!/bin/bash -l
#PBS -N sagips
#PBS -A physics
#PBS -q debug
#PBS -l select=2
#PBS -l place=scatter
#PBS -l walltime=00:30:00
#PBS -l filesystems=home:flare
#PBS -j oe
#PBS -o /home/me/.ipython/profile_aurora/jobs/sagips.log.pbs
#PBS -r n

umask 022
exec >>/home/me/.ipython/profile_aurora/jobs/sagips.log 2>&1
trap 'echo PBS has asked this job to end: SIGTERM' TERM
export SAGIPS_ENDS_AT=$(($(date +%s) + 1800))
export OMP_NUM_THREADS=8
export SAGIPS_DEVICE=xpu
export IPYTHONDIR=/home/me/.ipython
module load frameworks
mpiexec -n 24 --ppn 12 --depth=8 --cpu-bind depth bash -c 'export ZE_FLAT_DEVICE_HIERARCHY=FLAT ZE_AFFINITY_MASK=$((PALS_LOCAL_RANKID % 12)); exec "$0" "$@"' python -m ipyparallel.engine --mpi --profile-dir=/home/me/.ipython/profile_aurora --cluster-id=
