//! `vae-coordinator certs`: makes an authority, issues certificates, and says what to do with
//! them.

use anyhow::Result;
use secure::authority::{self, Validity};

use crate::args::CertsCommand;

/// Does it; returns what there is to say.
pub(crate) fn carry_out(command: &CertsCommand) -> Result<String> {
    match command {
        CertsCommand::Init(args) => {
            authority::init(&args.dir, Validity::days(args.days))?;
            let dir = args.dir.display();
            Ok(format!(
                "Made a CA and a join token in {dir}; ca.key stays there. For each host:\n  \
                 vae-coordinator certs issue --dir {dir} --host NAME_OR_IP"
            ))
        }
        CertsCommand::Issue(args) => {
            let folder = authority::issue(&args.dir, &args.host, Validity::days(args.days))?;
            Ok(format!(
                "Issued {dir}/tls.crt, valid for {} days. Copy {dir} to the host, and give \
                 --tls-dir there",
                args.days,
                dir = folder.display()
            ))
        }
    }
}
