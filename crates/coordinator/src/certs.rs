//! `COORDINATOR certs`: makes a certificate authority, issues certificates, and prints the next step.

use std::path::Path;

use advice::CommandLine;
use anyhow::Result;
use secure::{
    Address,
    authority::{self, Validity},
};

use crate::{args::CertsCommand, listen::PORT, program::Program};

/// Carries out the command; returns the text to print.
pub(crate) fn carry_out(command: &CertsCommand, program: &dyn Program) -> Result<String> {
    match command {
        CertsCommand::Init(args) => {
            authority::init(&args.dir, Validity::days(args.days))?;
            let dir = args.dir.display();
            Ok(format!(
                "Made a CA, a join token and a view token in {dir}; ca.key stays there. Each host needs a \
                 certificate, issued with its name or IP address after --host. For this \
                 host:\n  {}",
                authority::issue_for_this_host(&args.dir)
            ))
        }
        CertsCommand::Issue(args) => {
            let folder = authority::issue(&args.dir, &args.host, Validity::days(args.days))?;
            let mut text = format!(
                "Issued {dir}/tls.crt, valid for {} days. Copy {dir} to the host, and name it \
                 there with --tls-dir",
                args.days,
                dir = folder.display()
            );
            // A name with a star names no single host, so it cannot be part of a command.
            let address = args.host.iter().find_map(|host| Address::on(host, PORT).ok());
            if let Some(address) = address {
                let (coordinator, worker) = start(program, &address, &folder);
                text +=
                    &format!("; a coordinator, and its workers, with\n  {coordinator}\n  {worker}");
            }
            Ok(text)
        }
    }
}

/// The commands that start a coordinator and a worker on a host that has a certificate.
fn start(program: &dyn Program, address: &Address, folder: &Path) -> (CommandLine, CommandLine) {
    let coordinator = CommandLine::this_program().args(program.subcommand());
    let coordinator = coordinator.arg("--listen").arg(address.to_string());
    let worker = program.worker().line().arg("--coordinator").arg(format!("https://{address}"));
    (coordinator.arg("--tls-dir").arg(folder), worker.arg("--tls-dir").arg(folder))
}
