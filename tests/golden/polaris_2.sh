#!/bin/bash -l
#PBS -N sagips
#PBS -A physics
#PBS -q debug
#PBS -l select=2:system=polaris
#PBS -l place=scatter
#PBS -l walltime=00:30:00
#PBS -l filesystems=home:eagle
#PBS -j oe
#PBS -o /home/me/.ipython/profile_polaris/jobs/sagips.log.pbs
#PBS -r n

umask 022
exec >>/home/me/.ipython/profile_polaris/jobs/sagips.log 2>&1
trap 'echo PBS has asked this job to end: SIGTERM' TERM
export SAGIPS_ENDS_AT=$(($(date +%s) + 1800))
export OMP_NUM_THREADS=8
export IPYTHONDIR=/home/me/.ipython
module use /soft/modulefiles; module load conda; conda activate base
mpiexec -n 8 --ppn 4 --depth=8 --cpu-bind depth bash -c 'export CUDA_VISIBLE_DEVICES=$((3 - PMI_LOCAL_RANK % 4)); exec "$0" "$@"' python -m ipyparallel.engine --mpi --profile-dir=/home/me/.ipython/profile_polaris --cluster-id=
